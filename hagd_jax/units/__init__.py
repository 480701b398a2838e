"""Units: what circuits consist of, from heads and neurons to features, whole MLPs and edges."""

from hagd_jax.units.active import ActiveFeatures, active_features
from hagd_jax.units.blocks import Blocks, blocks
from hagd_jax.units.chosen import Scores, Selection
from hagd_jax.units.components import AnyParts, Components, Parts, components, parts_of
from hagd_jax.units.dictionary import MLPS, NEURONS, Dictionary, Spanned
from hagd_jax.units.directed import Decoders, Directed
from hagd_jax.units.edges import WRITES, Edges, MaskEdges, mask_edges
from hagd_jax.units.explained import doubt, unexplained, warn_of_nothing
from hagd_jax.units.feature_edits import FeatureEdit, intervene
from hagd_jax.units.features import Features, Source, as_dictionary, directed
from hagd_jax.units.graph import Graph, NamedEdge, strongest_into
from hagd_jax.units.lazy import LazyFeatures
from hagd_jax.units.naming import unit_name
from hagd_jax.units.neurons import Neurons, mask_nodes, neurons
from hagd_jax.units.nodes import Nodes, Space
from hagd_jax.units.spanned_tree import SpannedTree
from hagd_jax.units.tree import tree
from hagd_jax.units.tree_file import load_tree, save_tree
from hagd_jax.units.unit import Unit
from hagd_jax.units.unit_edges import Frame, UnitEdge, UnitEdges, frame_of
from hagd_jax.units.unit_tree import UnitTree
from hagd_jax.units.wired import MaskUnitEdges, Wired, wired

__all__ = [
    "MLPS",
    "NEURONS",
    "WRITES",
    "ActiveFeatures",
    "AnyParts",
    "Blocks",
    "Components",
    "Decoders",
    "Dictionary",
    "Directed",
    "Edges",
    "FeatureEdit",
    "Features",
    "Frame",
    "Graph",
    "LazyFeatures",
    "MaskEdges",
    "MaskUnitEdges",
    "NamedEdge",
    "Neurons",
    "Nodes",
    "Parts",
    "Scores",
    "Selection",
    "Source",
    "Space",
    "Spanned",
    "SpannedTree",
    "Unit",
    "UnitEdge",
    "UnitEdges",
    "UnitTree",
    "Wired",
    "active_features",
    "as_dictionary",
    "blocks",
    "components",
    "directed",
    "doubt",
    "frame_of",
    "intervene",
    "load_tree",
    "mask_edges",
    "mask_nodes",
    "neurons",
    "parts_of",
    "save_tree",
    "strongest_into",
    "tree",
    "unexplained",
    "unit_name",
    "warn_of_nothing",
    "wired",
]
