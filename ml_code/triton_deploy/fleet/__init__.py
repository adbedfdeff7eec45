"""All the Tritons that serve one repository: what is loaded in which, and how the public name is switched in each."""
