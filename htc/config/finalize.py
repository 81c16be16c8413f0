"""From a composed configuration to a run's: typed, checked, and with derived values filled in."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigTypeError

from htc.config.checks import check
from htc.config.schema import Config, SemanticFusion, schema_keys, stage_defaults
from htc.errors import UserError


def finalize(composed: DictConfig) -> Config:
    """Turn a composed configuration into typed objects, check it, and fill in derived values.

    Raises UserError, naming the keys, for an unknown key, a missing value or a combination without meaning.
    """
    config = typed(composed)
    check(config)
    derive(config)
    return config


def typed(composed: DictConfig) -> Config:
    """Turn a composed configuration into typed objects, without checks or derived values.

    Raises UserError for unknown keys, missing values and references to values of a wrong type.
    """
    unknown = sorted(set(_composed_keys(composed)) - set(schema_keys()))
    if unknown:
        raise UserError(f"{unknown[0]} is not a key of the configuration; --cfg job shows all keys.")
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(f"{missing[0]} has no value: set it on the command line, as in {missing[0]}=VALUE.")
    # Merged into the schema again, so that a recorded config.yaml and resolved references are typed as well.
    plain = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), plain))
    except ConfigTypeError as error:
        # OmegaConf does not name the key here.
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"a reference ${{...}} points to a value of another type than its key has ({reason})."
        ) from None
    assert isinstance(config, Config)
    return config


def derive(config: Config) -> None:
    """Replace null by the derived value, so that a spelled-out default and a derived one are the same run."""
    model = config.model
    for key, value in stage_defaults(model.num_stages).items():
        if getattr(model, key) is None:
            setattr(model, key, value)
    if model.semantic and model.semantic_fusion is None:
        model.semantic_fusion = SemanticFusion.both
    if config.checkpoint.file is not None:
        config.backbone.weights = None
    entity, slash, project = config.wandb.project.partition("/")
    if slash:
        config.wandb.entity, config.wandb.project = entity, project
    if config.name is None:
        config.name = default_name(config)


def default_name(config: Config) -> str:
    """Return a readable name, such as `htc-no_mask_flow-resnet50-coco-seed0`; the signature makes it unique."""
    model = config.model
    parts = [model.name]
    if model.name == "htc":
        parts += [f"no_{key}" for key in ("interleaved", "mask_flow", "semantic") if not getattr(model, key)]
        if model.semantic_fusion not in (None, SemanticFusion.both):
            parts.append(f"fusion_{model.semantic_fusion.value}")
    ends = [f"seed{config.seed}", *(["continued"] if config.continue_from is not None else [])]
    return "-".join([*parts, config.backbone.name, config.data.name, *ends])


def _composed_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a composed configuration, nodes included."""
    for name in map(str, node):
        key = prefix + name
        yield key
        child = node._get_node(name)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _composed_keys(child, key + ".")
