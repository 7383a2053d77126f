"""Reports of a comparison: records, HTML, SVG and the upstream record of `apr diff`."""
