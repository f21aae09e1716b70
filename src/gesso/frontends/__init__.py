"""What stands around a prompt: styles, wildcards and the flags of other tools become a plain request."""
