"""What a sweep file asks for: its fields, resources, and the cells they come to."""
