"""Watches a version on live traffic, and says whether it is good; changes nothing."""
