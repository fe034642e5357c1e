from types import SimpleNamespace


def llama_model_default_params():
    return SimpleNamespace(repack_tensors=False)
