from __future__ import annotations

import pickle  # noqa: TID251  # what LlamaIndex's pipelines do with components

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore

from bgem3 import Reranker, Weights
from bgem3.errors import InvalidInputError
from llamaindex_bgem3 import BGEM3Rerank
from tests.llamaindex.conformance import PostprocessorConformance, ids_of, nodes_of, scores_of


class TestBGEM3Rerank(PostprocessorConformance):
    @pytest.fixture
    def top_n(self):
        return 2

    @pytest.fixture
    def postprocessor(self, embed_model, top_n):
        return BGEM3Rerank(model_name=embed_model.model_name, backend="onnx", top_n=top_n)


@pytest.fixture
def scored():
    return [NodeWithScore(node=node, score=0.1 * i) for i, node in enumerate(nodes_of("d0", "d1", "d2", "d3"))]


@pytest.fixture
def rerank(embed_model):
    return BGEM3Rerank(model=embed_model.model_name, backend="onnx")


def test_scores_are_the_reranker_s(embed_model, scored):
    weights = Weights(dense=0.2, sparse=0.3, multi_vector=0.5)
    rerank = BGEM3Rerank(model_name=embed_model.model_name, backend="onnx", weights=weights)
    texts = [one.node.get_content("embed") for one in scored]
    expected = Reranker(embed_model.shared.encoder, weights=weights).rerank("the dog", texts)
    found = rerank.postprocess_nodes(scored, query_str="the dog")
    assert ids_of(found) == [ids_of(scored)[one.index] for one in expected]
    assert scores_of(found) == pytest.approx([one.score for one in expected], abs=1e-5)


def test_the_retrieval_score_is_kept_on_a_copy(embed_model, scored):
    rerank = BGEM3Rerank(model_name=embed_model.model_name, backend="onnx", keep_retrieval_score=True)
    before = {one.node.node_id: one.score for one in scored}
    for one in rerank.postprocess_nodes(scored, query_str="the dog"):
        assert one.node.metadata["retrieval_score"] == before[one.node.node_id]
    assert all("retrieval_score" not in one.node.metadata for one in scored)


def test_one_model_for_all(rerank, embed_model):
    assert rerank.shared is embed_model.shared


class Recorder(BaseEventHandler):
    seen: list = []  # noqa: RUF012  # a pydantic field, copied for each instance

    @classmethod
    def class_name(cls):
        return "Recorder"

    def handle(self, event, **kwargs):
        self.seen.append(event)


@pytest.fixture
def recorder():
    root = get_dispatcher()
    handler = Recorder(seen=[])
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.mark.parametrize("count", [4, 0])
async def test_events(rerank, recorder, scored, count):
    nodes = scored[:count]
    sync = rerank.postprocess_nodes(nodes, query_str="the dog")
    await rerank.apostprocess_nodes(nodes, query_str="the dog")
    events = [event for event in recorder.seen if isinstance(event, (ReRankStartEvent, ReRankEndEvent))]
    assert [type(event) for event in events] == [ReRankStartEvent, ReRankEndEvent] * 2
    start, end = events[:2]
    assert (start.query.query_str, ids_of(start.nodes), start.top_n) == ("the dog", ids_of(nodes), 5)
    assert start.model_name == rerank.model_name
    assert ids_of(end.nodes) == ids_of(sync)


def test_callbacks(embed_model, scored):
    handler = LlamaDebugHandler(print_trace_on_end=False)
    rerank = BGEM3Rerank(model_name=embed_model.model_name, backend="onnx", callback_manager=CallbackManager([handler]))
    found = rerank.postprocess_nodes(scored, query_str="the dog")
    [(start, end)] = handler.get_event_pairs(CBEventType.RERANKING)
    assert start.payload[EventPayload.QUERY_STR] == "the dog"
    assert start.payload[EventPayload.TOP_K] == 5
    assert end.payload[EventPayload.NODES] == found


def test_serialised(rerank):
    again = BGEM3Rerank.from_dict(rerank.to_dict())
    assert again.to_dict() == rerank.to_dict()
    assert again.weights == Weights.balanced


def test_pickled_without_its_model(rerank, scored):
    data = pickle.dumps(rerank)
    again = pickle.loads(data)
    assert len(data) < 10_000
    assert ids_of(again.postprocess_nodes(scored, query_str="dog")) == ids_of(
        rerank.postprocess_nodes(scored, query_str="dog")
    )


def test_a_query_is_needed(rerank, scored):
    with pytest.raises(InvalidInputError, match=r"query_bundle: reranking needs the query.*Fix"):
        rerank.postprocess_nodes(scored)


def test_bad_top_n(embed_model):
    with pytest.raises(ValueError, match="top_n"):
        BGEM3Rerank(model_name=embed_model.model_name, top_n=0)
