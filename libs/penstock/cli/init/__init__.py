"""`penstock init`: a small working project to begin with."""
