"""A web page that demonstrates a trained model. Only `page.py` and `calls.py` need Gradio."""
