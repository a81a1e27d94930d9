"""MTEB's own harness over our modes, on tasks made here."""

import warnings

import numpy as np
import pytest

from bgem3 import HybridIndex, MemoryStore
from bgem3.errors import BGEM3Error, InvalidInputError
from bgem3.evaluation import Dataset, System, evaluate
from bgem3.evaluation.mteb import MTEBModel
from tests.support.fake_encoder import FakeEncoder

pytestmark = [
    pytest.mark.integration,
    # mteb tells its users about defaults it chose; none of it is ours to change
    pytest.mark.filterwarnings("default"),
]
MODES = ("dense", "sparse", "multi_vector", "hybrid")


def make_task(dataset, top_ranked=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        from mteb.abstasks.retrieval import AbsTaskRetrieval
        from mteb.abstasks.task_metadata import TaskMetadata

    class Words(AbsTaskRetrieval):
        metadata = TaskMetadata(
            dataset={"path": "none/none", "revision": "1"},
            name="Words",
            description="Words that are found again.",
            type="Reranking" if top_ranked else "Retrieval",
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

        def load_data(self, *args, **kwargs):
            rows = [{"id": id_, "text": text, "title": ""} for id_, text in dataset.passages()]
            asked = [{"id": id_, "text": text} for id_, text in dataset.queries.items()]
            split = {
                "corpus": datasets.Dataset.from_list(rows),
                "queries": datasets.Dataset.from_list(asked),
                "relevant_docs": {query: dict(judged) for query, judged in dataset.qrels.items()},
                "top_ranked": top_ranked,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Words()


def run(model, task):
    import mteb

    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


@pytest.mark.parametrize("mode", MODES)
def test_the_harness_measures_what_an_index_finds(labelled, mode):
    dataset, encoder = Dataset.read(labelled), FakeEncoder()
    scores = run(MTEBModel(encoder, name="test/words", mode=mode), make_task(dataset))
    index = HybridIndex(encoder, MemoryStore())
    passages = dict(dataset.passages())
    index.add(list(passages.values()), ids=list(passages))
    hits = index.search_many(list(dataset.queries.values()), mode=mode, k=10)
    recall = np.mean(
        [any(hit.id in dataset.qrels[q] for hit in one) for q, one in zip(dataset.queries, hits, strict=True)]
    )
    assert scores["recall_at_10"] == pytest.approx(recall, abs=1e-4)
    assert scores["ndcg_at_10"] > 0.2


def test_given_candidates_are_reranked_by_the_modes_head(labelled):
    dataset = Dataset.read(labelled)
    candidates = {query: ["p1", *judged] for query, judged in dataset.qrels.items()}
    scores = run(MTEBModel(FakeEncoder(), name="test/words", mode="sparse"), make_task(dataset, candidates))
    assert scores["recall_at_5"] == 1


def test_dense_vectors_for_the_other_tasks():
    model = MTEBModel(FakeEncoder())
    vectors = model.encode([{"text": ["word1", "word2"]}, {"text": ["word1"]}])
    assert vectors.shape == (3, FakeEncoder().dim)
    assert model.similarity(vectors, vectors)[0, 2] == pytest.approx(1)
    assert model.similarity_pairwise(vectors[:1], vectors[2:]) == pytest.approx([1])


def test_what_results_are_filed_under():
    meta = MTEBModel(FakeEncoder(), name="a/b", mode="hybrid", strategy="rrf").mteb_model_meta
    assert (meta.name, meta.revision) == ("a/b", "a" * 64)
    assert meta.experiment_kwargs["strategy"] == "rrf"
    # the harness would take results of another backend or other lengths for these
    others = [FakeEncoder(), FakeEncoder(backend="other"), FakeEncoder(max_length=64)]
    assert len({str(MTEBModel(one).mteb_model_meta.experiment_kwargs) for one in others}) == 3


def test_bad_use():
    with pytest.raises(BGEM3Error, match="search before index"):
        MTEBModel(FakeEncoder()).search([], top_k=1)
    with pytest.raises(InvalidInputError, match="mode: got 'x'"):
        MTEBModel(FakeEncoder(), mode="x")


@pytest.mark.parametrize("lexical", ["m3", "bm25"])
def test_candidates_are_scored_as_the_index_is_searched(lexical):
    corpus = [{"id": f"p{i}", "text": text} for i, text in enumerate(["part pump pump the the", "pump water", "part"])]
    model = MTEBModel(FakeEncoder(), mode="sparse", lexical=lexical)
    model.index(corpus)
    queries = [{"id": "q", "text": "part pump"}, {"id": "none", "text": "part"}]
    everything = model.search(queries, top_k=3)["q"]
    among = model.search(queries, top_k=2, top_ranked={"q": ["p1", "p2"]})
    assert among == {"q": {id_: everything[id_] for id_ in ("p1", "p2")}, "none": {}}
    assert len(model.search(queries, top_k=1, top_ranked={"q": ["p1", "p2"]})["q"]) == 1


@pytest.mark.parametrize("options", [{"mode": "sparse"}, {"mode": "hybrid", "strategy": "cascade"}], ids=str)
def test_ties_and_a_cascade_are_measured_as_an_index_answers(labelled, tmp_path, options):
    dataset, encoder = Dataset.read(labelled), FakeEncoder()
    scores = run(MTEBModel(encoder, name="test/words", **options), make_task(dataset))
    expected = evaluate(dataset, encoder, [System("it", options)], cache=tmp_path)
    assert scores["ndcg_at_10"] == pytest.approx(expected.mean("it"), abs=1e-4)
    # what other depths would give is not the same
    deep = evaluate(dataset, encoder, [System("deep", {**options, "cascade": (300, 300)})], cache=tmp_path)
    assert options["mode"] == "sparse" or scores["ndcg_at_10"] != pytest.approx(deep.mean("deep"), abs=1e-3)
