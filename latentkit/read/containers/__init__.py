"""Kinds of files that hold tensors, a module each: ``contents`` says what is in an open file, and where its bytes are.

``read.header`` chooses one by suffix. None of them reads the tensors' data, unpacks or unpickles anything.
"""
