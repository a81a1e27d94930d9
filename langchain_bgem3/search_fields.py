"""The options of a search as a retriever's fields, and the search itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from pydantic import ConfigDict, Field, SkipValidation

from bgem3.errors import InvalidInputError
from bgem3.hybrid import HybridIndex
from bgem3.types import Mode, SearchOptions, Strategy, Where
from langchain_bgem3.documents import hit_document
from langchain_bgem3.opening import dense_only_model
from langchain_bgem3.options import WeightsLike, to_options

_FIELDS = ("k", "mode", "strategy", "fetch_k", "weights", "rrf_k", "exhaustive", "cascade", "filter")


class SearchFields(BaseRetriever):
    """Searches an index; every field but the index may be given to `invoke` for one call.

    Raises:
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
        InvalidFilterError: a filter does not follow the grammar.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    index: SkipValidation[HybridIndex] = Field(description="Where chunks live.")
    k: SkipValidation[int] = Field(default=4, description="Documents returned.")
    mode: SkipValidation[Mode] = Field(default="hybrid", description="dense, sparse, multi_vector or hybrid.")
    strategy: SkipValidation[Strategy | None] = Field(default=None, description="union, cascade or rrf.")
    fetch_k: SkipValidation[int] = Field(default=100, description="Candidates taken from dense and from sparse.")
    weights: SkipValidation[WeightsLike | None] = Field(default=None, description="How much each head counts.")
    rrf_k: SkipValidation[int] = Field(default=60, description="Dampens the first ranks under rrf.")
    exhaustive: bool = Field(default=False, description="Score every chunk and not only candidates.")
    cascade: SkipValidation[tuple[int, int]] = Field(default=(100, 20), description="Depths of the cascade.")
    filter: SkipValidation[Where | None] = Field(default=None, description="A metadata filter.")
    head_scores: bool = Field(default=False, description="Put the score of each head into metadata['scores'].")

    if not TYPE_CHECKING:  # type checkers take the signature from the fields

        def __init__(self, **fields: Any) -> None:
            # Not in a validator: pydantic would wrap our errors.
            super().__init__(**fields)
            self._check()

    def _check(self) -> None:
        """Refuse options that are out of range."""
        check_index(self.index)
        self._options({})

    def _options(self, given: dict[str, Any]) -> SearchOptions:
        """Return the fields, with what one call asks otherwise."""
        asked = {name: value for name, value in given.items() if value is not None}
        options = to_options({name: getattr(self, name) for name in _FIELDS} | asked)
        check_mode(self.index, options)
        return options

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Where | None = None,
        head_scores: bool | None = None,
        **options: Any,
    ) -> list[Document]:
        hits = self.index.search(query, **self._options({"k": k, "filter": filter, **options}))
        shown = self.head_scores if head_scores is None else head_scores
        return [hit_document(hit, head_scores=shown) for hit in hits]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Where | None = None,
        head_scores: bool | None = None,
        **options: Any,
    ) -> list[Document]:
        hits = await self.index.asearch(query, **self._options({"k": k, "filter": filter, **options}))
        shown = self.head_scores if head_scores is None else head_scores
        return [hit_document(hit, head_scores=shown) for hit in hits]

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self.index.store).__name__
        params["ls_embedding_provider"] = dense_only_model(self.index) or "BGEM3Embeddings"
        params["ls_embedding_model"] = str(self.index.encoder.describe()["model"])
        return params


def check_index(index: object) -> HybridIndex:
    """Return an index, or raise InvalidInputError where it is something else."""
    if not isinstance(index, HybridIndex):
        raise InvalidInputError(
            f"index: got {type(index).__name__}, expected a HybridIndex. Fix: HybridIndex(encoder, store)"
        )
    return index


def check_mode(index: HybridIndex, options: SearchOptions) -> None:
    """Refuse a mode that an index without sparse and multi-vector heads has not.

    Raises:
        InvalidInputError: it has the dense head only.
    """
    name = dense_only_model(index)
    if name is not None and options.get("mode", "hybrid") != "dense":
        raise InvalidInputError(
            f"mode: got {options.get('mode', 'hybrid')!r}, expected 'dense': {name} has no other head. "
            f"Fix: mode='dense', or BGEM3Embeddings()"
        )
