"""Our llama-cpp worker beside llama.cpp's own server and the binding's, end to end over HTTP."""
