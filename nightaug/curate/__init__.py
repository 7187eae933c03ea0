"""What a translation did to the objects of its images, and what to do about it."""
