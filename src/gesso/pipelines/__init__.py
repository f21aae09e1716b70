"""Where the parts meet: a request becomes pictures, and a picture tells how it was made."""
