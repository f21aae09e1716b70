"""Front ends of a prompt: turn styles, wildcards and the flags of other tools into a plain request."""
