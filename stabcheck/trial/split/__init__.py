"""What clean-split knows about the samples behind two loaders: read, compared, judged."""
