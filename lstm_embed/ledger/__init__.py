"""What has been done and what made it: plan, parts, manifest, quarantine, owner marks, sealed folders.

Keeps "every part exactly once", "nothing bad vanishes" and "everything says what made it". Every job that works on units
stands on `Ledger`; folders that are written in one go (word vectors, models) are closed with `seal`.
"""

from lstm_embed.ledger.origin import fingerprint, provenance
from lstm_embed.ledger.parts import PartRecord, PartStore, Rejected
from lstm_embed.ledger.plan import Ledger, Span, Unit, Work
from lstm_embed.ledger.sealed import open_sealed, seal

__all__ = [
    "Ledger",
    "PartRecord",
    "PartStore",
    "Rejected",
    "Span",
    "Unit",
    "Work",
    "fingerprint",
    "open_sealed",
    "provenance",
    "seal",
]
