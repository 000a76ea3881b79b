"""What a user calls: one function for each verb of the command line, with the same names and settings."""

from autoprune.verbs.afterwards import attach as attach
from autoprune.verbs.afterwards import export as export
from autoprune.verbs.afterwards import finetune as finetune
from autoprune.verbs.looking import Comparison as Comparison
from autoprune.verbs.looking import Profile as Profile
from autoprune.verbs.looking import Report as Report
from autoprune.verbs.looking import Status as Status
from autoprune.verbs.looking import compare as compare
from autoprune.verbs.looking import profile as profile
from autoprune.verbs.looking import report as report
from autoprune.verbs.looking import status as status
from autoprune.verbs.searching import resume as resume
from autoprune.verbs.searching import search as search
from autoprune.verbs.searching import train as train
