"""What applications share: from names and files to pictures, runs of many pictures, replay."""
