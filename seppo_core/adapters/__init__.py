"""Small weights beside a frozen network: how they compute, and how files hold them."""
