"""Pictures to pick winners from: where they lie, what they tell, small copies to look at, and named sets of them."""
