"""All Tritons that serve one repository: loads versions into each, and switches the public name in each."""
