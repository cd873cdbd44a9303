"""What objectives are made of: the plug-in interface, what is shared, teachers and gates."""
