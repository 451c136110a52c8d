"""A web page that demonstrates a trained model. Only `page.py` needs Gradio."""
