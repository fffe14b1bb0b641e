"""The demo: a small text-to-image model, real winning images, judges that training never sees."""
