"""A report on an encoder: one HTML page that needs nothing else, made of the figures of ``stats``.

==================  ====================================================================================
``markup``          pieces of HTML: harmless text, numbers, tables, pictures with their data
``svg``             a matplotlib picture as inline SVG in the page's colours (needs the extra ``report``)
``pictures``        histograms, bars and lines
``heat_maps``       heat maps
``samples``         the KL or mean square of samples in bins
``facts``           what several sections read out of the document
``sections``        the sections: findings, overview, channels, normalization
``kl_section``      KL of samples and channels; of latents already drawn, their spread
``logvar_section``  log-variances and their clamp
``extra_sections``  what ``stats --with`` adds
``page``            all of them as a page
==================  ====================================================================================
"""
