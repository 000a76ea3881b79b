"""The command line: `autoprune <verb>`. Flags and a TOML file say the same things; flags win."""

from autoprune.cli.arguments import parser as parser
from autoprune.cli.commands import settings as settings
from autoprune.cli.entry import main as main
