"""MediaWiki dumps to articles."""
