"""pytest puts this file's folder's parent, the project's root, on the import path."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
