"""What every part of a kind keeps, as pytest classes to subclass in the tests of a package that brings its own part.

    from sca.testing.data_readers import AnnotationReaderTests

    class TestMyReader(AnnotationReaderTests):
        def reader(self):
            return MyReader()

        def folder(self, path):
            ...  # write a small data folder of the kind

The project's own parts pass the same suites. They need pytest and nothing else of what the project's tests need.
"""
