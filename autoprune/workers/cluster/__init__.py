"""Where candidates are evaluated on many machines: Ray Tune starts the workers, one actor holds the controller.

Ray is imported inside functions only: nothing here needs it before a cluster is asked for.
"""

from autoprune.workers.cluster.coordinator import Coordinator as Coordinator
from autoprune.workers.cluster.coordinator import Search as Search
from autoprune.workers.cluster.finalists import Finals as Finals
from autoprune.workers.cluster.reach import Cluster as Cluster
from autoprune.workers.cluster.reach import Share as Share
from autoprune.workers.cluster.reach import connect as connect
from autoprune.workers.cluster.search import run_cluster as run_cluster
