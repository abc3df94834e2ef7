"""An error message that no terminal should see."""


def setup():
    raise ValueError("\x1b[2J\udcff [bold]caf\u00e9[/bold] " + "long " * 1000)
