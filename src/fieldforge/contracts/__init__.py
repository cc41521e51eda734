"""Promises as checks that ship: run them on a class of yours.

    from fieldforge.contracts import check_encoding
    check_encoding(lambda: MyEncoding(3))
"""
