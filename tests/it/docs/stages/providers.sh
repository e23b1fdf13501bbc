prepare() { :; }
