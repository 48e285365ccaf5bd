package server

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// CredsFile is the name, in the data directory, of the file that holds the role
// user's credentials: one line "user:password". It is readable by its owner
// alone, made at the first start and kept afterwards.
const CredsFile = "bus.creds"

// loadOrMakePassword returns the role user's password.
func loadOrMakePassword(dir string) (string, error) {
	path := filepath.Join(dir, CredsFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makePassword(path)
	case err != nil:
		return "", fmt.Errorf("bus credentials: %w", err)
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !ok || user != RoleUser || password == "" || strings.ContainsAny(password, "\"\\\r\n") {
		return "", fmt.Errorf("%s holds no line %q; delete it to have a new one made", path, RoleUser+":<password>")
	}
	return password, nil
}

// makePassword writes the file beside and renames it, so that a crash leaves
// either none or a whole one.
func makePassword(path string) (string, error) {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	password := base64.RawURLEncoding.EncodeToString(secret)

	f, err := os.CreateTemp(filepath.Dir(path), CredsFile+".*") // 0600
	if err != nil {
		return "", fmt.Errorf("bus credentials: %w", err)
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.WriteString(RoleUser + ":" + password + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("bus credentials: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", fmt.Errorf("bus credentials: %w", err)
	}
	return password, nil
}
