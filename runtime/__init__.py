"""What a deployment needs: the plan's types and the names in the graph. numpy and onnxruntime only."""
