package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"gopkg.in/ini.v1"
)

const (
	envPrefix     = "MEGAPHONE_"
	configName    = "megaphone.conf"
	configSection = "settings"
	checksDName   = "checks.d"
	discoverDName = "discover.d"
	systemConfig  = "/etc/megaphone"
)

// legacyKeys are settings of the original that are no flags here.
var legacyKeys = []string{"CACHEDIR", "CACHEFILE", "DEBUG", "QUIET", "WSGISERVER"}

// keyOf is the name of a flag's setting in the file, and after MEGAPHONE_ in
// the environment.
func keyOf(flag string) string { return strings.ToUpper(strings.ReplaceAll(flag, "-", "_")) }

// settings is what a file of settings holds, by key in upper case.
type settings struct {
	path   string
	values map[string]string
}

// get returns a setting. Each key that is there counts, whatever else is missing.
func (s settings) get(key string) (text string, ok bool) {
	text, ok = s.values[key]
	return text, ok && text != ""
}

// unknown lists the keys that mean nothing to any command.
func (s settings) unknown(fs *pflag.FlagSet) []string {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	Default().bind(all, allParts)
	var keys []string
	for key := range s.values {
		flag := strings.ToLower(strings.ReplaceAll(key, "_", "-"))
		if all.Lookup(flag) == nil && fs.Lookup(flag) == nil && !slices.Contains(legacyKeys, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// readFile finds and reads the file of settings. One that was named must exist.
func (c *Config) readFile(fs *pflag.FlagSet, env func(string) string) (settings, error) {
	if c.ConfigFile == "" && !fs.Changed("config") {
		c.ConfigFile = env(envPrefix + "CONFIG")
	}
	if c.ConfigFile == "" {
		c.ConfigFile = searchConfig(env)
	}
	if c.ConfigFile == "" {
		return settings{}, nil
	}
	return readSettings(c.ConfigFile)
}

// configDirs are where the file of settings is looked for, in this order.
func configDirs(env func(string) string) []string {
	var dirs []string
	switch {
	case env("XDG_CONFIG_HOME") != "":
		dirs = append(dirs, filepath.Join(env("XDG_CONFIG_HOME"), "megaphone"))
	case env("HOME") != "":
		dirs = append(dirs, filepath.Join(env("HOME"), ".config", "megaphone")) // the default of the XDG base directories
	}
	return append(dirs, systemConfig, ".")
}

func searchConfig(env func(string) string) string {
	for _, dir := range configDirs(env) {
		path := filepath.Join(dir, configName)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path // reading it says what is wrong with it
		}
	}
	return ""
}

// besideConfig is a directory beside the file of settings; without that, where it
// would be looked for. It need not exist yet.
func besideConfig(name, configFile string, env func(string) string) string {
	if configFile != "" {
		return filepath.Join(filepath.Dir(configFile), name)
	}
	for _, dir := range configDirs(env) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return path
		}
	}
	return filepath.Join(systemConfig, name)
}

func readSettings(path string) (settings, error) {
	f, err := ini.LoadSources(ini.LoadOptions{
		IgnoreContinuation:       true, // the original's reader knew none of these
		SpaceBeforeInlineComment: true,
		SkipUnrecognizableLines:  false,
		PreserveSurroundedQuote:  true,
	}, path)
	if err != nil {
		return settings{}, fmt.Errorf("--config %s: %w", path, cause(err))
	}
	s := settings{path: path, values: map[string]string{}}
	misplaced := false
	for _, section := range f.Sections() {
		if !strings.EqualFold(section.Name(), configSection) {
			misplaced = misplaced || len(section.Keys()) > 0
			continue
		}
		for _, key := range section.Keys() {
			s.values[strings.ToUpper(key.Name())] = key.Value() // as it is written: String resolves %(KEY)s, without end in a circle
		}
	}
	if misplaced && len(s.values) == 0 {
		return settings{}, fmt.Errorf("--config %s: its settings must stand in a section [%s]", path, configSection)
	}
	return s, nil
}

// cause strips operation and path, which the caller names, from an error of the
// operating system.
func cause(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
