"""What every part of a kind keeps, as pytest classes to subclass in the tests of a package that brings its own part.

    from pipeline.testing.trackers import TrackerTests

    class TestMyTracker(TrackerTests):
        def tracker(self, next_track):
            return MyTracker(TrackingOptions(), next_track)

The project's own parts pass the same suites. They need pytest and nothing else of what the project's tests need.
"""
