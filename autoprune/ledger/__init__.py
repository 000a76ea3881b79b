"""The one book of a search: an Optuna study on a kill-proof journal file, or in any database Optuna knows."""

from autoprune.ledger.book import Ledger as Ledger
from autoprune.ledger.database import refuse_password as refuse_password
from autoprune.ledger.database import shown as shown
from autoprune.ledger.locks import held as held
from autoprune.ledger.locks import holder as holder
from autoprune.ledger.membership import new_name as new_name
from autoprune.ledger.opening import BEGUN as BEGUN
from autoprune.ledger.opening import JOIN as JOIN
from autoprune.ledger.presence import writers as writers
from autoprune.ledger.records import Entry as Entry
from autoprune.ledger.records import Record as Record
from autoprune.ledger.records import check_same as check_same
from autoprune.ledger.records import plain as plain
from autoprune.ledger.server import SERVERS as SERVERS
