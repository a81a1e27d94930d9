"""What several requests and answers share; FastAPI writes the OpenAPI description from it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from bgem3.types import Weights

# The texts of the examples in the description.
TEXTS: list[JsonValue] = ["茶叶含有茶氨酸，能让人放松。", "Part KX-220B fits the small pump."]
QUERY = "What in tea calms people?"


class Body(BaseModel):
    """A request: a misspelt field is an error."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class WeightsBody(Body):
    """How much each head counts; only ratios matter, and the sum must be above zero."""

    dense: float = Field(1.0, ge=0, le=1e6)
    sparse: float = Field(0.3, ge=0, le=1e6)
    multi_vector: float = Field(1.0, ge=0, le=1e6)

    def value(self) -> Weights:
        """Return them as the core takes them."""
        return Weights(self.dense, self.sparse, self.multi_vector)


def weights_of(body: WeightsBody | None) -> Weights:
    """Return the weights of a request, the balanced ones where it has none."""
    return Weights.balanced if body is None else body.value()


class Usage(BaseModel):
    """Tokens read, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class ErrorView(BaseModel):
    """What is wrong, and the limit that was met, if one was."""

    message: str
    type: str
    param: str | None
    code: str | None
    limit: dict[str, Any] | None = None


class ErrorAnswer(BaseModel):
    """Every error of this server."""

    error: ErrorView
