"""One run: its directory, its problem as prepared, what workers are sent, its winner's way out, what comes after."""

from autoprune.runs.afterwards import changed_run as changed_run
from autoprune.runs.afterwards import export_run as export_run
from autoprune.runs.afterwards import finetune as finetune
from autoprune.runs.afterwards import reopen as reopen
from autoprune.runs.controlling import make_controller as make_controller
from autoprune.runs.controlling import patience as patience
from autoprune.runs.controlling import reserved as reserved
from autoprune.runs.controlling import search_on_cluster as search_on_cluster
from autoprune.runs.directory import RunDirectory as RunDirectory
from autoprune.runs.directory import example_tensors as example_tensors
from autoprune.runs.directory import refuse_existing as refuse_existing
from autoprune.runs.directory import run_path as run_path
from autoprune.runs.joining import agree_on_schedule as agree_on_schedule
from autoprune.runs.joining import check_joined as check_joined
from autoprune.runs.joining import joined_scores as joined_scores
from autoprune.runs.joining import leave_to_leader as leave_to_leader
from autoprune.runs.joining import say_delivered as say_delivered
from autoprune.runs.prepare import Prepared as Prepared
from autoprune.runs.prepare import prepare as prepare
from autoprune.runs.recipe import Recipe as Recipe
from autoprune.runs.recipe import at_home as at_home
from autoprune.runs.recipe import slots as slots
from autoprune.runs.result import SearchResult as SearchResult
from autoprune.runs.winner import Winner as Winner
from autoprune.runs.winner import deliver as deliver
