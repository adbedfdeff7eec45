"""Known bugs, as data, and the runner that plants each of them and sees that the tests notice it."""
