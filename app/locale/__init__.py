"""Catalogues of the texts the pages say themselves: en.json and zh_CN.json."""
