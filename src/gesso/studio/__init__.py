"""What every application does the same way: from names and files to pictures, runs of many, replay."""
