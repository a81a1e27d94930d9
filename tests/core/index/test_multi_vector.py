"""Each codec against exact MaxSim on float32."""

import numpy as np
import pytest
from onnx import TensorProto, helper, load_model_from_string

from bgem3.embeddings import MultiVectors
from bgem3.errors import InvalidInputError, StoreCorruptError
from bgem3.index.multi_vector import get_codec
from bgem3.index.products import FLOATS, INTEGERS, multiply, multiply_floats
from bgem3.scoring import max_sim

# Largest absolute error of a MaxSim score at dim 1,024, bytes per vector, share of the true top 10 kept.
CODECS = {
    "float32": (1e-6, 4096, 1.0),
    "float16": (1e-4, 2048, 1.0),
    "int8": (1e-3, 1024 + 4, 1.0),
    "int4": (5e-3, 512 + 2, 0.9),
    "int2": (2e-2, 256 + 2, 0.9),
    "binary": (5e-2, 128 + 2, 0.8),
    "int4-plain": (1e-2, 512 + 2, 0.9),
    "int2-plain": (6e-2, 256 + 2, 0.9),
    "binary-plain": (0.3, 128 + 2, 0.8),
}


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def clustered(dim: int, lengths: list[int], seed: int = 0) -> MultiVectors:
    """Token vectors around 50 centres: each text draws its tokens from a few of them."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(50, dim))
    texts = []
    for length in lengths:
        own = random.choice(50, 4, replace=False)
        texts.append(unit(centres[random.choice(own, length)] + random.normal(size=(length, dim))))
    return MultiVectors.from_list(texts, dim)


def exact(query: np.ndarray, passages: MultiVectors) -> np.ndarray:
    return np.array([(query @ passage.T).max(axis=1).mean() for passage in passages])


@pytest.mark.parametrize("name", CODECS)
def test_scores_agree_with_exact_max_sim(name):
    tolerance, size, kept = CODECS[name]
    passages = clustered(1024, [1 + 7 * (i % 9) for i in range(60)])
    queries = clustered(1024, [6] * 8, seed=1)
    codec = get_codec(name, 1024)
    blobs = codec.encode(passages)
    assert codec.bytes_per_vector == size
    assert [len(blob) for blob in blobs] == [size * n for n in passages.lengths]
    recalls = []
    for query in queries:
        scores = codec.scores(query, blobs)
        expected = exact(query, passages)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, atol=tolerance)
        recalls.append(len({*np.argsort(-scores)[:10]} & {*np.argsort(-expected)[:10]}) / 10)
    assert np.mean(recalls) >= kept


def test_exact_reference_is_max_sim():
    passages, queries = clustered(24, [3, 9]), clustered(24, [5], seed=1)
    np.testing.assert_allclose(max_sim(queries, passages)[0], exact(queries[0], passages), atol=1e-6)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("dim", [1, 3, 24, 96, 100])
def test_any_width(name, dim):
    passages = clustered(dim, [4, 1, 300])
    codec = get_codec(name, dim)
    blobs = codec.encode(passages)
    for blob, passage in zip(blobs, passages, strict=True):
        decoded = codec.decode(blob)
        assert decoded.shape == passage.shape
        assert codec.scores(passage, [blob])[0] > 0.7


def test_a_blob_of_200_vectors_fits_30_kb():
    assert 200 * get_codec("binary", 1024).bytes_per_vector <= 30_000


@pytest.mark.parametrize("name", CODECS)
def test_scores_do_not_depend_on_what_is_scored_beside(name):
    passages = clustered(96, [5, 900, 3, 1500, 1, 1, 40])
    query = clustered(96, [7], seed=1)[0]
    codec = get_codec(name, 96)
    blobs = codec.encode(passages)
    together = codec.scores(query, blobs)
    alone = [codec.scores(query, [blob])[0] for blob in blobs]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_negative_similarities_are_kept():
    vector = unit(np.ones((1, 64)))
    codec = get_codec("int8", 64)
    assert codec.scores(-vector, codec.encode(MultiVectors.from_list([vector])))[0] == pytest.approx(-1, abs=1e-2)


def test_binary_estimates_are_unbiased():
    passages = MultiVectors(unit(np.random.default_rng(0).normal(size=(2000, 256))), np.arange(2001))
    query = unit(np.random.default_rng(1).normal(size=(1, 256)))
    codec = get_codec("binary", 256)
    errors = codec.scores(query, codec.encode(passages)) - exact(query, passages)
    # RaBitQ, theorem 3.2: an error of about sqrt(pi / 2 - 1) / sqrt(dim) = 0.047 each, 0.001 for the mean of 2,000
    assert abs(errors.mean()) < 0.004
    assert errors.std() == pytest.approx(np.sqrt(np.pi / 2 - 1) / 16, rel=0.15)


def test_the_rotation_is_what_is_on_disk_already():
    """Codes are kept for years: this fails when the rotation changes."""
    codec = get_codec("binary", 16)
    (blob,) = codec.encode(MultiVectors.from_list([unit(np.arange(1.0, 17)[None])]))
    assert blob.hex() == "b438e0b1"


@pytest.mark.parametrize("damage", [lambda blob: blob[:-1], lambda blob: b""])
def test_a_damaged_blob_is_an_error(damage):
    codec = get_codec("int8", 24)
    blobs = codec.encode(clustered(24, [3, 2]))
    with pytest.raises(StoreCorruptError, match="expected a multiple of 28"):
        codec.scores(np.ones((1, 24), np.float32), [blobs[0], damage(blobs[1])])


def test_nothing_to_score():
    assert get_codec("binary", 24).scores(np.ones((2, 24), np.float32), []).shape == (0,)


def test_an_unknown_codec():
    with pytest.raises(InvalidInputError, match="got 'pq', expected one of float32"):
        get_codec("pq", 24)


@pytest.mark.parametrize("name", ["binary+pool2", "float32+pool2"])
def test_pooling_halves_what_is_kept(name):
    passages = clustered(64, [1, 2, 7, 200, 700])
    codec = get_codec(name, 64)
    blobs = codec.encode(passages)
    assert codec.pools
    assert [len(blob) // codec.bytes_per_vector for blob in blobs] == [1, 2, 4, 100, 350]


def test_pooling_joins_the_nearest():
    vectors = unit(np.array([[1, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 1, 0.1]], dtype=np.float32))
    codec = get_codec("float32+pool2", 3)
    (blob,) = codec.encode(MultiVectors.from_list([vectors]))
    pooled = codec.decode(blob)
    expected = unit(np.array([vectors[0] + vectors[2], vectors[1] + vectors[3]]))
    np.testing.assert_allclose(pooled[np.argsort(-pooled[:, 0])], expected, atol=1e-6)


def test_large_and_small_products_are_exact():
    """Two products of a byte and a byte are added in 16 bits on some processors."""
    left = np.array([[255, 255, 0, 1] * 16, [0, 15, 1, 255] * 16], dtype=np.uint8)
    right = np.array([[63, -63]] * 64, dtype=np.int8)
    assert multiply(left, right).tolist() == (left.astype(int) @ right.astype(int)).tolist()


@pytest.mark.parametrize(
    ("model", "operator", "kinds"),
    [
        (INTEGERS, "MatMulInteger", (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)),
        (FLOATS, "MatMul", (TensorProto.FLOAT,) * 3),
    ],
)
def test_the_models_of_the_products_are_what_onnx_makes(model, operator, kinds):
    a, b, c = (helper.make_tensor_value_info(name, kind, [None, None]) for name, kind in zip("abc", kinds, strict=True))
    graph = helper.make_graph([helper.make_node(operator, ["a", "b"], ["c"])], "product", [a, b], [c])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="bgem3")
    assert load_model_from_string(model) == made


def test_a_product_of_floats_is_numpys():
    random = np.random.default_rng(0)
    left, right = random.standard_normal((32, 96), np.float32), random.standard_normal((96, 96), np.float32)
    np.testing.assert_allclose(multiply_floats(left, right), left @ right, atol=1e-4)


@pytest.mark.parametrize("kind", [np.float64, np.float16])
@pytest.mark.parametrize("name", ["binary", "int2", "int8"])
def test_a_query_of_another_float_type_scores_as_in_float32(name, kind):
    vectors = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codec = get_codec(name, 64)
    blobs = codec.encode(MultiVectors(vectors, np.array([0, 20, 40])))
    query = vectors[:5].astype(np.float16)
    np.testing.assert_allclose(
        codec.scores(query.astype(kind), blobs), codec.scores(query.astype(np.float32), blobs), atol=5e-3
    )
