"""Front ends: turn styles, wildcards and the flags of other tools into a plain request."""
