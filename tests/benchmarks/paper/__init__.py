"""FedQUIT at the scale of its paper, and beside the code that its authors published."""
