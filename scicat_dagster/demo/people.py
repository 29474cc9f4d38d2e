"""The facility's register: its instruments, its proposals and the people behind them, all fictional.

The file writer draws from this register, and the SciCat stand-in is seeded from it, so that a file's proposal
and instrument are known to the catalogue. Not here: runs and files (``measurement``).
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

INGESTOR_GROUP = "ingestor"
"""The SciCat group that may create datasets and must be able to read every proposal."""


@dataclass(frozen=True)
class Person:
    """Somebody who proposes or takes part in an experiment."""

    first_name: str
    last_name: str
    affiliation: str

    @property
    def name(self) -> str:
        """First and last name, as NXuser's ``name``."""
        return f"{self.first_name} {self.last_name}"

    @property
    def user_id(self) -> str:
        """Lower-case ASCII letters of the name, as NXuser's ``facility_user_id``."""
        letters = unicodedata.normalize("NFKD", self.name.casefold())
        return "".join(letter for letter in letters if letter.isascii() and letter.isalpha())

    @property
    def email(self) -> str:
        """An address that reaches nobody (RFC 2606)."""
        return f"{self.user_id}@example.org"


@dataclass(frozen=True)
class Instrument:
    """A neutron instrument and the Kafka topic on which its file writer announces files."""

    name: str
    """As in the NeXus files and in SciCat, such as ``ODIN``."""
    technique: str
    """What the instrument does, in words."""
    definition: str
    """The NeXus application definition of its files, such as ``NXtomo``."""
    detector: str
    """Name of its detector's group in the files."""
    pixels: int
    """Number of detector pixels."""
    topic: str
    partitions: int
    """Number of the topic's partitions."""

    @property
    def directory(self) -> str:
        """Name of its folder below the data directory."""
        return self.name.lower()


@dataclass(frozen=True)
class Proposal:
    """An accepted proposal: who measures what on which instrument."""

    proposal_id: str
    """A number, as text: SciCat refuses proposal ids that are numbers."""
    title: str
    abstract: str
    instrument: Instrument
    principal_investigator: Person
    team: tuple[Person, ...]
    """Who may appear in its files, the principal investigator included."""
    samples: tuple[str, ...]
    temperature_kelvin: tuple[float, float]
    """Range of sample temperatures that it measures at."""


ODIN = Instrument("ODIN", "Neutron imaging", "NXtomo", "camera", 1024 * 1024, "odin_filewriter", 1)
LOKI = Instrument(
    "LOKI", "Small-angle neutron scattering", "NXsas", "rear_detector", 802_816, "loki_filewriter", 1
)
DREAM = Instrument(
    "DREAM", "Powder diffraction", "NXtofraw", "mantle_detector", 917_504, "dream_filewriter", 2
)

INSTRUMENTS: tuple[Instrument, ...] = (ODIN, LOKI, DREAM)

TOPICS: dict[str, int] = {instrument.topic: instrument.partitions for instrument in INSTRUMENTS}
"""Number of partitions of each Kafka topic of the facility."""

_ANNA = Person("Anna", "Öberg", "University of Norrhamn")
_BASTIEN = Person("Bastien", "Clairvaux", "Institut des Matériaux de Valombre")
_CHIARA = Person("Chiara", "Montefiore", "Politecnico di Rivalta")
_DEMBA = Person("Demba", "Ndiaye", "Université du Cap Manuel")
_ELIF = Person("Elif", "Yıldırım", "Boğazkent Technical University")
_FREJA = Person("Freja", "Lindqvist", "University of Norrhamn")
_GORAN = Person("Goran", "Petrić", "Institute of Physics, Zelengrad")
_HANA = Person("Hana", "Kobayashi", "Minato Institute of Technology")

PROPOSALS: tuple[Proposal, ...] = (
    Proposal(
        "512017",
        "Lithium plating in pouch cells under fast charging",
        "Time-resolved radiography of lithium deposits in commercial pouch cells.",
        ODIN,
        _ANNA,
        (_ANNA, _FREJA, _DEMBA),
        ("Pouch cell A", "Pouch cell B", "Empty holder"),
        (283.0, 318.0),
    ),
    Proposal(
        "523108",
        "Micelle growth in bio-based surfactants",
        "Form factor and interaction of sophorolipid micelles as a function of concentration.",
        LOKI,
        _BASTIEN,
        (_BASTIEN, _ELIF, _HANA, _ANNA),
        ("Sophorolipid 5 g/l in D₂O", "Sophorolipid 20 g/l in D₂O", "D₂O"),
        (278.0, 338.0),
    ),
    Proposal(
        "534820",
        "Oxygen vacancies in a double perovskite cathode",
        "Occupancies in a cathode for solid oxide cells, in operation.",
        DREAM,
        _HANA,
        (_HANA, _GORAN, _DEMBA, _FREJA),
        ("PrBaCo₂O₅₊ₓ", "Vanadium", "Empty can"),
        (300.0, 1073.0),
    ),
    Proposal(
        "512046",
        "Water uptake in bentonite",
        "Tomography of the swelling front in compacted bentonite, for repositories of nuclear waste.",
        ODIN,
        _GORAN,
        (_GORAN, _CHIARA),
        ("Bentonite 1.6 g/cm³", "Bentonite 1.8 g/cm³"),
        (293.0, 353.0),
    ),
    Proposal(
        "523391",
        "Aggregation of a therapeutic antibody",
        "Early aggregates of a monoclonal antibody on heating, with contrast matching.",
        LOKI,
        _ELIF,
        (_ELIF, _BASTIEN),
        ("Antibody 10 mg/ml", "Antibody 50 mg/ml", "Buffer"),
        (288.0, 348.0),
    ),
    Proposal(
        "534977",
        "Magnetic order in a kagome antiferromagnet",
        "Magnetic structure below the transition, and its change with pressure.",
        DREAM,
        _CHIARA,
        (_CHIARA, _HANA, _BASTIEN),
        ("Mn₃Sn powder", "Vanadium"),
        (1.6, 420.0),
    ),
)
"""The instruments take turns, so that any three neighbours are on three instruments."""


NEW_INSTRUMENT = Instrument(
    "NMX", "Macromolecular crystallography", "NXmx", "panel_detector", 1280 * 1280, ODIN.topic, 1
)
"""An instrument that nobody has written a schema for yet, so that its files fail until somebody does."""

COMMISSIONING = Proposal(
    "545001",
    "Hot commissioning with lysozyme",
    "First diffraction patterns of a new instrument.",
    NEW_INSTRUMENT,
    _FREJA,
    (_FREJA, _GORAN),
    ("Lysozyme",),
    (293.0, 298.0),
)


def scicat_proposal(proposal: Proposal) -> dict[str, Any]:
    """The body of ``POST /proposals`` that makes a proposal known to SciCat and readable by the ingestor."""
    investigator = proposal.principal_investigator
    return {
        "proposalId": proposal.proposal_id,
        "title": proposal.title,
        "abstract": proposal.abstract,
        "ownerGroup": f"proposal_{proposal.proposal_id}",
        "accessGroups": [INGESTOR_GROUP],
        "instrumentGroup": proposal.instrument.directory,
        "email": investigator.email,
        "firstname": investigator.first_name,
        "lastname": investigator.last_name,
        "pi_email": investigator.email,
        "pi_firstname": investigator.first_name,
        "pi_lastname": investigator.last_name,
        "type": "Default Proposal",
    }


def scicat_instrument(instrument: Instrument) -> dict[str, Any]:
    """The body of ``POST /instruments`` that makes an instrument known to SciCat; SciCat chooses its pid."""
    return {
        "name": instrument.name,
        "uniqueName": instrument.directory,
        "customMetadata": {"technique": instrument.technique},
    }
