"""What server and clients of the dummy app share."""
