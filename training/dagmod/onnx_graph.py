"""The Llama of model.py as an ONNX graph, node by node.

Inputs and outputs have the names and shapes of Optimum's decoder exports: `input_ids`, `attention_mask`,
`position_ids`, `past_key_values.N.key|value` -> `logits`, `present.N.key|value`. Weights are stored as float16 and cast
to float32, which ONNX Runtime folds away when it loads the file: half the size, single-precision arithmetic.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from model import Config

MASKED = -1e9  # added to the scores of positions a query must not see; finite, so that padding rows stay numbers


class Graph:
    """Collects nodes and initializers; every method returns the name of what it made."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: np.ndarray) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def scalar(self, value: float) -> str:
        return self.constant(f"scalar_{value}", np.array(value, dtype=np.float32))

    def op(self, kind: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        output = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def weight(self, name: str, value: np.ndarray) -> str:
        return self.op("Cast", self.constant(name, value.astype(np.float16)), to=TensorProto.FLOAT)

    def size(self, tensor: str, axis: int) -> str:
        return self.op("Shape", tensor, start=axis, end=axis + 1)


class Builder:
    """Writes the layers of one model into a `Graph`."""

    def __init__(self, weights: dict[str, np.ndarray], config: Config) -> None:
        self.graph, self.weights, self.config = Graph(), weights, config

    def linear(self, x: str, name: str) -> str:
        # Stored transposed: PyTorch keeps (out, in), MatMul wants (in, out).
        weight = np.ascontiguousarray(self.weights[f"{name}.weight"].T)
        return self.graph.op("MatMul", x, self.graph.weight(f"{name}.weight", weight))

    def norm(self, x: str, name: str) -> str:
        g = self.graph
        mean = g.op("ReduceMean", g.op("Mul", x, x), g.ints(-1), keepdims=1)
        scale = g.op("Sqrt", g.op("Add", mean, g.scalar(self.config.rms_norm_eps)))
        return g.op("Mul", g.op("Div", x, scale), g.weight(f"{name}.weight", self.weights[f"{name}.weight"]))

    def rotary(self) -> tuple[str, str]:
        """Cosines and sines of the positions asked for: (batch, 1, time, head dimension)."""
        g, c = self.graph, self.config
        exponent = np.arange(0, c.head_dim, 2, dtype=np.float32) / np.float32(c.head_dim)
        angles = np.arange(c.max_position_embeddings, dtype=np.float32)[:, None] * c.rope_theta**-exponent
        angles = np.concatenate((angles, angles), axis=1).astype(np.float32)
        tables = g.constant("cosines", np.cos(angles)), g.constant("sines", np.sin(angles))
        cos, sin = (g.op("Unsqueeze", g.op("Gather", table, "position_ids"), g.ints(1)) for table in tables)
        return cos, sin

    def rotate(self, x: str, cos: str, sin: str) -> str:
        g, half = self.graph, self.config.head_dim // 2
        first = g.op("Slice", x, g.ints(0), g.ints(half), g.ints(3))
        second = g.op("Slice", x, g.ints(half), g.ints(2 * half), g.ints(3))
        turned = g.op("Concat", g.op("Neg", second), first, axis=3)
        return g.op("Add", g.op("Mul", x, cos), g.op("Mul", turned, sin))

    def attention_bias(self) -> str:
        """0 where a query may look, MASKED elsewhere: (batch, 1, time, total)."""
        g = self.graph
        total, time = g.size("attention_mask", 1), g.size("input_ids", 1)
        zero, one = g.constant("zero", np.array(0, np.int64)), g.constant("one", np.array(1, np.int64))
        keys = g.op("Range", zero, g.op("Squeeze", total), one)
        queries = g.op("Slice", keys, g.op("Sub", total, time), total, g.ints(0))
        causal = g.op("LessOrEqual", g.op("Unsqueeze", keys, g.ints(0)), g.op("Unsqueeze", queries, g.ints(1)))
        real = g.op("Cast", g.op("Unsqueeze", "attention_mask", g.ints(1, 2)), to=TensorProto.BOOL)
        return g.op("Where", g.op("And", causal, real), g.scalar(0.0), g.scalar(MASKED))

    def heads(self, x: str) -> str:
        g, c = self.graph, self.config
        return g.op("Transpose", g.op("Reshape", x, g.ints(0, 0, c.num_attention_heads, c.head_dim)), perm=[0, 2, 1, 3])

    def attention(self, x: str, layer: int, cos: str, sin: str, bias: str) -> str:
        g, c, name = self.graph, self.config, f"model.layers.{layer}.self_attn"
        q, k, v = (self.heads(self.linear(x, f"{name}.{part}_proj")) for part in "qkv")
        q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
        k = g.op("Concat", f"past_key_values.{layer}.key", k, axis=2, name=f"present.{layer}.key")
        v = g.op("Concat", f"past_key_values.{layer}.value", v, axis=2, name=f"present.{layer}.value")
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.op("Add", g.op("Mul", scores, g.scalar(c.head_dim**-0.5)), bias)
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
        mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(0, 0, c.hidden_size))
        return self.linear(mixed, f"{name}.o_proj")

    def mlp(self, x: str, layer: int) -> str:
        g, name = self.graph, f"model.layers.{layer}.mlp"
        gate = self.linear(x, f"{name}.gate_proj")
        gated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), self.linear(x, f"{name}.up_proj"))
        return self.linear(gated, f"{name}.down_proj")

    def build(self) -> None:
        g, embedding = self.graph, "model.embed_tokens.weight"
        x = g.op("Gather", g.weight(embedding, self.weights[embedding]), "input_ids")
        (cos, sin), bias = self.rotary(), self.attention_bias()
        for layer in range(self.config.num_hidden_layers):
            name = f"model.layers.{layer}"
            x = g.op("Add", x, self.attention(self.norm(x, f"{name}.input_layernorm"), layer, cos, sin, bias))
            x = g.op("Add", x, self.mlp(self.norm(x, f"{name}.post_attention_layernorm"), layer))
        weight = np.ascontiguousarray(self.weights["lm_head.weight"].T)
        g.op("MatMul", self.norm(x, "model.norm"), g.weight("lm_head.weight", weight), name="logits")


def build(weights: dict[str, np.ndarray], config: Config) -> onnx.ModelProto:
    """The checked ONNX model.

    Parameters
    ----------
    weights
        Arrays under transformers' names.
    config
        The sizes.
    """
    builder = Builder(weights, config)
    builder.build()
    head = (config.num_attention_heads, config.head_dim)

    def tensor(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [
        tensor("input_ids", TensorProto.INT64, "batch", "time"),
        tensor("attention_mask", TensorProto.INT64, "batch", "total"),
        tensor("position_ids", TensorProto.INT64, "batch", "time"),
    ]
    outputs = [tensor("logits", TensorProto.FLOAT, "batch", "time", config.vocab_size)]
    for layer in range(config.num_hidden_layers):
        for part in ("key", "value"):
            name, past = f"{layer}.{part}", ("batch", head[0], "past", head[1])
            inputs.append(tensor(f"past_key_values.{name}", TensorProto.FLOAT, *past))
            outputs.append(tensor(f"present.{name}", TensorProto.FLOAT, "batch", head[0], "total", head[1]))
    initializers = list(builder.graph.initializers.values())
    graph = helper.make_graph(builder.graph.nodes, "dagmod", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="optdecode")
    model.ir_version = 9  # read by every ONNX Runtime since 1.15
    onnx.checker.check_model(model, full_check=True)
    return model
