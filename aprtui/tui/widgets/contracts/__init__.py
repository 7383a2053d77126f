"""What contracts say of a stage, a falsifier or a document: rows, lines and the dock beside a grid."""
