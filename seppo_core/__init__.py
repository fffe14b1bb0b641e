"""Semi-Policy Preference Optimization of diffusion models from winning images alone."""
