"""What a student imitates: virtual teachers, and the distance from them."""
