"""The stage graph: the one place where stages are listed.

A stage is a named point of the forward pass. The graph says for each stage which op makes it, from which stages, with
which parameters, and what shape it has. An engine evaluates the graph, captures are named by it, comparison walks it in
execution order, screens draw it. Names and shapes are those of the APRT stage files (`SaveTensorStage::ALL`), of which
dense models write 20; points that those names lack are stages too, marked as extensions. Extensions of layers with
experts and of recurrent layers have the names that llama.cpp gives them, or are named like those.

Shapes use T = tokens, H = hidden size, and the axis names of `Axis`.
"""
